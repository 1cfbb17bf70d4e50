"""What changes a model's answers that shouldn't?"""
