"""What the bytes of a file hold: pictures, arrays, texts. Nothing of what their numbers mean."""
