"""What the tests of loading share."""

from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.load import ConfigError, Loaded, load_config


class Loading(SynchronousTestCase):
    """What the tests share."""

    def load(
        self, text: str | None = None, environ: Mapping[str, str] = {}, options: Mapping[str, object] = {},
    ) -> Loaded:
        """Load a file with this text; None for no file."""
        self.path = self.mktemp()
        if text is not None:
            Path(self.path).write_text(text, "utf-8")
        return load_config(None if text is None else self.path, environ=environ, options=options)

    def notices(self, loaded: Loaded, level: str = "warn") -> list[str]:
        """The notices of one level, without the name of the file."""
        return [each.text.removeprefix(f"{self.path}:") for each in loaded.notices if each.level == level]

    def problems(
        self, text: str | None = None, environ: Mapping[str, str] = {}, options: Mapping[str, object] = {},
    ) -> list[str]:
        """The problems, without the name of the file."""
        error = self.assertRaises(ConfigError, self.load, text, environ, options)
        return [str(problem).removeprefix(f"{self.path}:") for problem in error.problems]
