"""Where facts about a model stand: our rows, and the registry's row of it, or of the model that is likest."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from agentless.llm.families import likeliest, vendor_of
from agentless.llm.model_rows import ModelRow, rows_for
from agentless.llm.names import ModelName, identify
from agentless.llm.price_keys import is_understood
from agentless.llm.provider_rows import Provider, find_provider
from agentless.llm.registry import ALIAS, Entry, look_up


class Subject(NamedTuple):
    """The model that is asked about."""

    seller: Provider
    """The provider's row."""

    route: str
    """litellm's name of the route."""

    name: str
    """The model, as the provider spells it."""

    base_model: str | None = None
    """What it is, where its name does not say so: a model, as its provider or its maker spells it, or with
    its provider's name and a slash before it."""

    self_hosted: bool = False
    """It runs on a server of the user's own, unless a registry knows it."""


class Known(NamedTuple):
    """Where facts about a model stand."""

    model: ModelName
    """What it is: of an alias, what that stands for."""

    rows: tuple[ModelRow, ...] = ()
    """Our rows, in order."""

    entry: Entry | None = None
    """The registry's row."""

    is_priced: bool = False
    """The prices there are this seller's."""

    is_like: bool = False
    """It is another model's of the same family."""

    is_sellers: bool = False
    """It is the seller's row of this very name."""

    @property
    def is_complete(self) -> bool:
        """Whether our rows say everything."""
        return any(row.complete for row in self.rows)

    @property
    def label(self) -> str:
        """How the registry's row is named as a source."""
        key = self.entry.key if self.entry else ""
        return f"family of {key}" if self.is_like else f"registry row {key}"

    @property
    def price_row(self) -> Mapping[str, Any] | None:
        """The registry's row whose prices hold for this model at this seller.

        `None` where a row of ours has them, or nobody, or where they depend on what we do not understand.
        """
        if self.entry is None or not self.is_priced or not is_understood(self.entry.row):
            return None
        row = self.entry.row
        return None if self.is_complete and not row.get("input_cost_per_token") else row


def find_known(subject: Subject) -> Known:
    """Our rows about a model, and the registry's: its seller's, else its vendor's, else one of its family.

    A cloud may sell a model of our rows at a price of its own, so for those too the registry is asked.
    """
    seller, route, name, base_model, _ = subject
    is_stated = base_model is not None
    name = base_model or name
    model = identify(name)
    rows = tuple(rows_for(model, route))
    if route in MAKERS and any(row.complete for row in rows):
        return Known(model, rows)
    sellers = [(seller, route, name)]
    if is_stated and "/" in name and (maker := find_provider(name.split("/", 1)[0], name)) is not None:
        sellers.append((maker, maker.route, name.split("/", 1)[1]))
    for found in filter(None, (_own_entry(*each) for each in sellers)):
        if found.row.get(ALIAS) is not None:
            model = identify(found.key)
            rows = tuple(rows_for(model, route))
        return Known(model, rows, found, is_priced=True, is_sellers=not is_stated)
    if any(row.complete for row in rows) and not (is_stated or seller.embedded):
        return Known(model, rows)
    for each, each_route, each_name in sellers if model.date else ():
        folder = each_name[: -len(each_name.rsplit("/", 1)[-1])]
        if (undated := _own_entry(each, each_route, folder + model.family)) is not None:
            return Known(model, rows, undated, is_like=True)
    return _vendors(subject, Known(model, rows), name)


def _own_entry(seller: Provider, route: str, name: str) -> Entry | None:
    bare = name.removeprefix(f"{route}/")
    prefixes = dict.fromkeys((seller.name, route, seller.name.replace("_", "-")))
    return look_up([*(f"{prefix}/{bare}" for prefix in prefixes), bare], {route, seller.name})


def _vendors(subject: Subject, known: Known, name: str) -> Known:
    """The vendor's entry, whose prices are not a reseller's; or that of the likeliest other model."""
    seller, is_stated = subject.seller, subject.base_model is not None
    vendor = vendor_of(known.model.family)
    # On the user's own server a vendor's model need not be as at the vendor's.
    is_own = seller.self_hosted and not seller.embedded
    is_elsewhere = subject.self_hosted and vendor == "dashscope"
    if vendor is None or ((is_own or is_elsewhere) and not is_stated):
        return known
    family, date = known.model
    bare = name.removeprefix(f"{subject.route}/")
    same = [bare, bare.rsplit("/", 1)[-1], *([f"{family}-{date}"] if date else [family])]
    if (entry := look_up([*same, *(f"{vendor}/{key}" for key in same)], {vendor})) is not None:
        rows = known.rows
        if entry.row.get(ALIAS) is not None:
            rows = tuple(rows_for(identify(entry.key), subject.route))
        return known._replace(rows=rows, entry=entry, is_priced=seller.embedded or is_stated)
    if known.is_complete:
        return known
    if date and (entry := look_up([family, f"{vendor}/{family}"], {vendor})) is not None:
        return known._replace(entry=entry, is_like=True)
    if subject.self_hosted and vendor in OPEN_WEIGHTS and not is_stated:
        return known
    entry = likeliest(known.model, vendor, floats=name.endswith("-latest"))
    if entry is None:
        return known
    rows = known.rows or tuple(rows_for(identify(entry.key), subject.route))
    return known._replace(rows=rows, entry=entry, is_like=True)


MAKERS = frozenset({"anthropic", "openai", "gemini", "deepseek", "xai", "mistral", "moonshot", "zai"})
"""Routes to models' own makers: a complete row of ours leaves nothing to ask the registry for there."""

OPEN_WEIGHTS = frozenset({"dashscope", "deepseek", "mistral", "moonshot", "zai"})
"""Makers of models that run on anybody's server: there they need not be like the maker's own service."""
