import pytest

import topoloss


@pytest.fixture
def registered():
    """Register a plugin for the length of a test."""
    names = []

    def register(plugin, name=None):
        names.append(topoloss.register(plugin, name))
        return names[-1]

    yield register
    for name in reversed(names):
        topoloss.unregister(name)
