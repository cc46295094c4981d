"""The command line `promise-jax`, one file a command. Nothing else imports it."""
