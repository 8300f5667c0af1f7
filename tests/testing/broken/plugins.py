"""Plugins that offer samplers, which are checked the fastest, with one thing wrong each."""

from testing.broken import losses, samplers

import topoloss


class Offers:
    """Offers what it was given. Nothing else is wrong with this one."""

    def __init__(self, offered):
        self.offered = offered

    @topoloss.hookimpl
    def topoloss_samplers(self):
        return self.offered


class Fickle(Offers):
    """Offers one name less each time it is asked."""

    @topoloss.hookimpl
    def topoloss_samplers(self):
        self.offered = dict(list(self.offered.items())[1:])
        return self.offered


class Raises:
    def __init__(self, error):
        self.error = error

    @topoloss.hookimpl
    def topoloss_samplers(self):
        raise self.error


class Unmarked(Offers):
    """Names a function like a hook without marking it as one."""

    def topoloss_losses(self):
        return {"never-asked": losses.Sum}


# A plugin, the first rule that it breaks, and what the failure says.
BREAKS = [
    (Offers([samplers.First]), "registration", "expected a dictionary"),
    (Offers({"random": samplers.First}), "registration", "choose another name"),
    (Raises(RuntimeError("not today")), "registration", "RuntimeError: not today"),
    (Raises(SystemExit("bye")), "registration", "sys.exit"),
    (object(), "registration", "implements no hook"),
    (Unmarked({"mine": samplers.First}), "hooks", "none on topoloss_losses"),
    (Fickle(dict.fromkeys("abcdef", samplers.First)), "names", "as before"),
    (Offers({"my=name": samplers.First}), "registration", "'my=name'"),
    (Offers({"mine": samplers.FromOne}), "indices", "sampler mine breaks"),
]
