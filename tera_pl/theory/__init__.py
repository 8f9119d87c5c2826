"""The theorems of the paper as functions, and fits of TeRA to a given weight update."""
