"""What is accepted although it is, or may be, damage: `docs/trusted_files.md` says so too."""

# By the name that a case gives; no program can see these from the file alone.
ODDITIES = {
    "edited checkpoint": "Checksums show damage, mix-ups and edits, and are no signature: whoever "
    "writes new ones has made another checkpoint. It must still have the form of this run's state.",
    "other text": "A damaged record that is still a valid one, with a label that agrees with its "
    "answer, is another record: published files come without checksums.",
    "other base": "Before training nothing says which base was meant: whole weights, values of "
    "config.json and tokens that load are the base. A checkpoint refuses another one than its own.",
    "other results": "results.json, config.yaml and ranks.csv are reports without checksums, so "
    "that others can read and join them: a report shows the values that are there.",
}
