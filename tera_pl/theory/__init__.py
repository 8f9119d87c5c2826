"""The theorems of the paper in numbers, and fits of the family to a given update."""
