"""Field, equations of motion and classical propagators; no network and no file format."""
