"""What is asked of a run, and what it answers: raw values, known tokens, edits, several draws."""
