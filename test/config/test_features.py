"""Tests for :mod:`s3proxy.config.features`."""

from s3proxy.config import features
from s3proxy.config.features import (
    DEPRECATED,
    FEATURES,
    NOT_NEEDED,
    RETIRED,
    Feature,
    feature_of,
    inactive_features,
)
from s3proxy.config.load import Notice
from s3proxy.config.model import Config
from s3proxy.config.schema import keys, sections
from test.config.loading import Loading


class Features(Loading):
    """What does nothing yet, or never."""

    def test_tables(self) -> None:
        """The tables name keys and sections that exist, and no key in two of them but for deprecated ones."""
        paths = [key.path for key in keys(Config)]
        known = {*paths, *(path for path, _ in sections(Config))}
        waiting = [path for feature in FEATURES for path in feature.keys]
        self.assertLessEqual({*waiting, *NOT_NEEDED, *DEPRECATED}, known)
        self.assertEqual(len({*waiting, *NOT_NEEDED}), len(waiting) + len(NOT_NEEDED))
        self.assertFalse(set(RETIRED) & known)
        self.assertFalse([path for path in NOT_NEEDED if feature_of(path)])

    def test_one_notice_per_feature(self) -> None:
        """Keys of one feature that were set away from their defaults are named in one line."""
        feature = Feature("something to come", ("cache.actively_remove_cached_data",))
        self.patch(features, "FEATURES", (feature,))
        self.assertIs(feature_of(feature.keys[0]), feature)
        loaded = self.load(None, {}, {feature.keys[0]: True})
        self.assertEqual(loaded.notices, (Notice(
            "warn", f"no effect yet, {feature.name} comes with a later release: {feature.keys[0]}"),))

    def test_defaults_and_refusals_are_not_worth_a_word(self) -> None:
        """A feature that is switched off, and a key that is set to its default, cause no notice."""
        loaded = self.load(
            "dashboard: {enabled: false, bind_address: \"::1\"}\nserver: {https_port: 443}\n"
            "compression: {enabled: false}\ncache: {write_cache_enabled: false, ram_cache_enabled: false}\n")
        self.assertEqual(loaded.notices, ())

    def test_inactive(self) -> None:
        """What the defaults ask for and what does not run is listed; what is not asked for is not."""
        names = inactive_features(Config())
        wanted = [feature.name for feature in FEATURES if feature.wanted is not None and feature.wanted(Config())]
        self.assertEqual(list(names), wanted)
        off = "the limit on download bandwidth"
        self.assertNotIn(off, names)
