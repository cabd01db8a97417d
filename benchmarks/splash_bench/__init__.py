"""`python -m splash_attention bench`: times of splash and its peers, each answer checked first.

families: what can be asked for. problems: sizes and numbers. catalogue: the problems that have names. case: the tensors
of a problem. check: the reference's answer. tiles, targets: what a problem cannot do without, and what it owes. peers/:
splash and others behind one interface. measure, memory: figures of one call. run: the rows of a problem. named,
scaling, tables, sweeps, limits, rows, host, metadata: whole tables. train: a model with each peer. report: CSV, table,
plot. commands, fixed, options: the command line.
"""
