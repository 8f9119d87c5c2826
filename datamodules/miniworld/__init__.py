"""MiniWorld: a small invented world, the questions about it, and the documents to pretrain on."""
