"""What the files of one modality hold, and how their bytes become raw values."""
