"""How data and work flow: everything that knows Ray, files, or MLflow."""
