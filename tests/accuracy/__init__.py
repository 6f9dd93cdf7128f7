"""How far the model is from what was measured: `make accuracy` writes the tables of docs/accuracy.md.

`rows` reads the measurements and says what the agent makes of each, `fit` finds the constants again and what
they predict for models and GPUs that they were not fitted to, `page` writes it down.
"""
