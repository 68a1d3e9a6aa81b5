"""Values of a config.json by the usual names of keys, whatever its family calls them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import MISSING, Fields, kind_of

ALIASES: Mapping[str, tuple[str, ...]] = {
    "experts": ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"),
    "experts_chosen": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "experts_per_token",
        "moe_k",
        "moe_topk",
        "moe_top_k",
        "top_k_experts",
    ),
    "shared_experts": (
        "n_shared_experts",
        "num_shared_experts",
        "moe_num_shared_experts",
        "num_shared_expert",
    ),
    "layer_types": ("layer_types", "layers_block_type"),
    "dtype": ("dtype", "torch_dtype"),
}
"""What families call the same thing; a config may use several of the names, if they agree."""

PER_LAYER = "per_layer_config"
"""Key of transformers 5 for values that some layers have of their own."""

Switch = bool | tuple[str, bool]
"""Whether something is there: always, never, or what a key says and where it is silent."""


Keys = Mapping[str, str | tuple[str, ...]]
"""A family's names of keys by the usual ones."""


@dataclass(frozen=True)
class FamilyConfig:
    """A config of a family, of one layer if it says so.

    Attributes:
        keys: the family's names of keys, with a dot for one within another; empty for what it
            never says.
        defaults: values by the usual names where the config is silent.
        usual: values by the family's own names where neither says: those of transformers' class.
        layers: how many layers it has; 0 until that is known.
        layer: the layer that is asked about: lists of one value a layer give its value.
    """

    fields: Fields
    keys: Keys = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    usual: Mapping[str, object] = field(default_factory=dict)
    layers: int = 0
    layer: int | None = None

    def of_layer(self, layer: int, layers: int) -> "FamilyConfig":
        """Return the config as one layer sees it."""
        return replace(self, layer=layer, layers=layers)

    def renamed(self, keys: Mapping[str, str]) -> "FamilyConfig":
        """Return the config with other names for some keys, where it has them."""
        own = {
            usual: key
            for usual, key in keys.items()
            if self.fields.has(key) or key in {**self.usual, **self.defaults}
        }
        return replace(self, keys={**self.keys, **own}) if own else self

    def integer(self, name: str, default: object = MISSING, *, least: int = 1) -> int:
        """Return a whole number that is at least ``least``.

        Raises:
            InputError: it is missing or no such number, or two names of it disagree.
        """
        fields, key = self._place(name)
        return fields.integer(key, self._default(name, fields, key, default), least=least)

    def optional(self, name: str) -> int | None:
        """Return a whole number, None where the config says null or 0, or nothing at all."""
        fields, key = self._place(name)
        default = self._default(name, fields, key, 0)
        return fields.integer(key, 0 if default is None else default, least=0) or None

    def flag(self, name: str, default: object = MISSING) -> bool:
        """Return true or false."""
        fields, key = self._place(name)
        return fields.flag(key, self._default(name, fields, key, default))

    def is_on(self, switch: Switch) -> bool:
        """Return what a switch says of this config."""
        return switch if isinstance(switch, bool) else self.flag(*switch)

    def has(self, name: str) -> bool:
        """Return whether a value is stated, and not null."""
        fields, key = self._place(name)
        return fields.has(key)

    def value(self, name: str) -> object:
        """Return a value whatever it is, None where there is none."""
        fields, key = self._place(name)
        return fields.value(key) if fields.has(key) else self._default(name, fields, key, None)

    def where(self, name: str) -> str:
        """Return what messages call a value."""
        fields, key = self._place(name)
        return f"{fields.where}.{key}"

    def default(self, name: str) -> object:
        """Return what the family takes where the config is silent, None where it takes nothing."""
        if name in self.defaults:
            return self.defaults[name]
        known = {**self.usual, **self.defaults}
        return next((known[each] for each in self._names(name) if each in known), None)

    def _default(self, name: str, fields: Fields, key: str, default: object) -> object:
        """Return what stands for a value that is not there; null is not silence."""
        own = None if fields.states(key) else self.default(name)
        return default if own is None else own

    def _names(self, name: str) -> tuple[str, ...]:
        own = self.keys.get(name)
        if own is None:
            own = ALIASES.get(name, name)
        return (own,) if isinstance(own, str) else own

    def _place(self, name: str) -> tuple[Fields, str]:
        """Return the fields that hold a value, and its key in them."""
        names = self._names(name)
        own_layer = self._layer_fields()
        if own_layer is not None:
            for each in (name, *names):
                if own_layer.has(each):
                    return own_layer, each
        places = [_within(self.fields, each) for each in names]
        stated = [(fields, key) for fields, key in places if fields.has(key)]
        for fields, key in stated[1:]:
            _check_agreement(stated[0], (fields, key))
        fields, key = stated[0] if stated else places[0]
        return self._item(fields, key) if stated else (fields, key)

    def _item(self, fields: Fields, key: str) -> tuple[Fields, str]:
        """Return the place of a value, within the list that holds one for each layer."""
        value = fields.value(key)
        if self.layer is None or not isinstance(value, list):
            return fields, key
        check_length(value, self.layers, f"{fields.where}.{key}")
        item = f"{key}[{self.layer}]"
        return Fields({item: value[self.layer]}, fields.where), item

    def _layer_fields(self) -> Fields | None:
        if self.layer is None or not self.fields.has(PER_LAYER):
            return None
        layers = self.fields.fields(PER_LAYER)
        for name in layers.names():
            if name.isdecimal() and int(name) == self.layer:
                return layers.fields(name)
        return None


def _within(fields: Fields, key: str) -> tuple[Fields, str]:
    outer, _, inner = key.partition(".")
    if not inner:
        return fields, key
    return (fields.fields(outer) if fields.has(outer) else Fields({}, f"{fields.where}.{outer}")), (
        inner
    )


def _check_agreement(first: tuple[Fields, str], other: tuple[Fields, str]) -> None:
    """Raise InputError where two names of one thing have different values."""
    one, two = first[0].value(first[1]), other[0].value(other[1])
    if one != two:
        raise InputError(
            f"{other[0].where}.{other[1]}: expected {kind_of(one)} as {first[1]} says, got "
            f"{kind_of(two)}; two names of one thing"
        )


def check_length(listed: list[object], layers: int, where: str) -> None:
    """Raise InputError unless a list has one item for each layer."""
    if len(listed) != layers:
        raise InputError(f"{where}: expected {layers} items, one for each layer, got {len(listed)}")
