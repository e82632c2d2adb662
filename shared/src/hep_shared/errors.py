"""The errors that a user can cause and cure.

A message is one complete sentence: the file or key, the value received, what is allowed, what to do. The CLI
prints that sentence and exits with code 2; anything else that escapes is a defect and keeps its traceback.
"""

from os import PathLike


class UserError(Exception):
    """Something the user can put right; the message is one complete sentence."""


class ConfigError(UserError):
    """A configuration that is unreadable, unknown or out of range."""


class TrainingError(UserError):
    """A training that cannot go on: a diverged loss, or too little memory for the options chosen."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, of a foreign kind, or made for another model."""


class InputFileError(UserError):
    """An input file that is missing, damaged or lacks something.

    Args:
        path: The file. Given alone it is the whole sentence: that is how pickle and the workers of a
            DataLoader rebuild an exception in another process.
        problem: What is wrong, for example ``"holds no tree 'xec'"``.
        remedy: What to do about it, an imperative clause.
        branch: Branch, data set or array inside the file.
        entry: Entry number in the file.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        problem: str = "",
        remedy: str = "",
        *,
        branch: str | None = None,
        entry: int | None = None,
    ) -> None:
        self.path, self.branch, self.entry = str(path), branch, entry
        if not problem:
            super().__init__(self.path)
            return
        where = self.path
        where += f", branch '{branch}'" if branch is not None else ""
        where += f", entry {entry}" if entry is not None else ""
        super().__init__(f"{where}: {problem}; {remedy.removesuffix('.')}.")
