"""DreamerConfig and what its fields become in jaxdreamer."""
