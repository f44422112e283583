"""The commands, a module each: ``add_options`` says what it takes, ``run`` does it, with a docstring that is its help.

Nothing heavy is imported until a command runs, so that help answers at once.
"""
