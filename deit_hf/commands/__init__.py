"""The sub-commands of `deit-hf`, one module each.

Reading order: main, check, prepare, distill, train, cache_teacher, evaluate, report, predict, attention, demo,
compare, convert, export, push, recipes, models, benchmark, reproduce. errors.py has the exit codes, parser.py reports
mistyped options, help.py prints `--help` from the tables of option_groups.py.
"""
