"""The words that everyone speaks: a Decode asks for a forward, a Step answers, a Session is one sequence.

Read `decode.py` first. A Draft is a tree of proposed tokens; a Trace records. Nothing here imports another room.
"""
