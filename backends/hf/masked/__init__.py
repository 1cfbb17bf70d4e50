"""Bidirectional masked models of transformers' checkpoints: LLaDA's, Dream's and DiffuCoder's shapes, no remote code.

Read first: `shapes.py`.
"""
