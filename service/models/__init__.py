"""The model repository: files and their cards read, checked, and ready to compute."""
