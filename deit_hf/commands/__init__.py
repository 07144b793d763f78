"""The commands behind the scripts, one module each.

Reading order: train, evaluate, predict, compare, convert, export, push, models, benchmark. errors.py has the
exit codes, parser.py reports mistyped options.
"""
