"""Plugins that offer filtrations, with one thing wrong each."""

from testing.broken import filtrations, losses

import topoloss


class Offers:
    """Offers what it was given. Nothing else is wrong with this one."""

    def __init__(self, offered):
        self.offered = offered

    @topoloss.hookimpl
    def topoloss_filtrations(self):
        return self.offered


class Fickle(Offers):
    """Offers one name less each time it is asked."""

    @topoloss.hookimpl
    def topoloss_filtrations(self):
        self.offered = dict(list(self.offered.items())[1:])
        return self.offered


class Unmarked(Offers):
    """Names a function like a hook without marking it as one."""

    def topoloss_losses(self):
        return {"never-asked": losses.Sum}


# A plugin, the first rule that it breaks, and what the failure says.
BREAKS = [
    (Offers([filtrations.Cosine]), "registration", "expected a dictionary"),
    (Offers({"cosine": filtrations.Cosine}), "registration", "choose another name"),
    (object(), "registration", "implements no hook"),
    (Unmarked({"mine": filtrations.Cosine}), "hooks", "none on topoloss_losses"),
    (Fickle(dict.fromkeys("abcdef", filtrations.Cosine)), "names", "as before"),
    (Offers({"my=name": filtrations.Cosine}), "names", "'my=name'"),
    (Offers({"mine": filtrations.WrongOrder}), "order_hint", "filtration mine breaks"),
]
