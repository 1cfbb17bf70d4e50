"""What pays on this machine: which draft model (`draft_model.py`), and which truncation (`truncation.py`)."""
