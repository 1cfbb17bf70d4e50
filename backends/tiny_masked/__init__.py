"""`tiny` adapted to a masked model: the folder that `tiny-masked` names; made by examples/tiny/train_masked.py."""
