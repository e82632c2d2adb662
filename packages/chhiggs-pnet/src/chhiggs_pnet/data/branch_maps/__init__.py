"""Branch maps shipped with the package, one TOML file per ROOT layout."""
