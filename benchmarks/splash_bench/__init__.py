"""`python -m splash_attention bench`: times of splash and its peers, each answer checked first.

sizes, families: what can be asked for. problems: both together. catalogue: the problems that have names. case: the
tensors of a problem. check: the reference's answer. tiles: what a problem cannot do without. targets: what it owes, no
part of wheels. peers/: splash and others behind one interface. measure, memory: figures of one call. run: the rows of a
problem. named, scaling, tables, sweeps, limits, rows, host, metadata: whole tables. train: a model with each peer, over
corpus and model. report: CSV, table, plot. demo/: training and every pattern, beside the reference. cli, commands,
fixed, options: the command line.
"""
