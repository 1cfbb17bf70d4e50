"""What are a model's answers and texts like, and what changes them that shouldn't?"""
