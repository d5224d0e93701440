"""`NNNN_subject.py`, numbered without gaps; the highest number is the head."""
