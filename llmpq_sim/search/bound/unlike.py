"""Linear program over loads where layers cost or lose differently."""

import numpy as np

from llmpq_sim.search.bound.certificate import CellMultipliers
from llmpq_sim.search.bound.master import SHORTAGE_PRICE, Master
from llmpq_sim.search.bound.problem import BlockItem, FloatArray


class UnlikeMaster(Master):
    """The program whose layers choose places and formats, as many as the loads there have.

    Further columns: how many layers of each item are at each place in each format, as blocks of
    `Program` are, and how many are nowhere. Rows that equal: the layers of each item, the embedding
    and the LM head, the devices of each place, and there the layers of main kinds in each format
    and those of each kind.
    """

    @property
    def items(self) -> list[BlockItem]:
        """The layers to place."""
        return [item for item in self.problem.items if item.is_layer]

    def _bounds(self, columns: int) -> FloatArray:
        bounds = super()._bounds(columns)
        allowed = np.array([item.allowed for item in self.items]).ravel()
        first = self.width + 6
        bounds[first : first + len(allowed), 1] = np.where(allowed, np.inf, 0.0)
        return bounds

    def _device_prices_s(self, equal: FloatArray) -> FloatArray:
        first = len(self.items) + 2
        return equal[first : first + len(self.problem.places)]

    def _program(
        self, target_s: float
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        objective, upper, limit, _, _ = super()._program(target_s)
        places, items = len(self.problem.places), self.items
        rest = {name: self._of_items(each) for name, each in self.table.parts.rest.items()}
        chosen = np.zeros((len(upper), rest["decode_path"].size))
        share = np.eye(places)[:, None, :, None] / self.problem.place_counts[None, None, :, None]
        chosen[:places] = (share * rest["prefill_rest"]).reshape(places, -1)
        chosen[places : 2 * places] = (share * rest["decode_rest"]).reshape(places, -1)
        chosen[2 * places + 2] = rest["decode_path"].ravel()
        chosen[2 * places + 3] = rest["decode_least"].ravel()
        losses = [np.broadcast_to(item.loss, item.allowed.shape) for item in items]
        chosen[2 * places + 4] = np.array(losses).ravel()
        missing = np.zeros((len(upper), len(items)))
        equal, value = self._equalities(chosen.shape[1])
        short_s = np.full(len(items), SHORTAGE_PRICE * target_s)
        return (
            np.concatenate([objective, rest["prefill_least"].ravel(), short_s]),
            np.concatenate([upper, chosen, missing], axis=1),
            limit,
            equal,
            value,
        )

    def _of_items(self, of_kinds: FloatArray) -> FloatArray:
        """Return what kinds have for each item. Shape: (items, places, formats)."""
        return of_kinds[[item.block for item in self.items]]

    def _equalities(self, choices: int) -> tuple[FloatArray, FloatArray]:
        counts, value = self._counts(self.width + 6)  # layers, embedding, head, devices
        items, places = self.items, len(self.problem.places)
        kinds, formats = len(self.table.parts.main), len(self.problem.formats)
        of_items = np.repeat(np.eye(len(items)), places * formats, axis=1)
        links = self._links(kinds, formats)
        rows = len(items) + len(counts) - 1 + len(links)
        equal = np.zeros((rows, counts.shape[1] + choices + len(items)))
        first = counts.shape[1]
        equal[: len(items), first : first + choices] = of_items
        equal[: len(items), first + choices :] = np.eye(len(items))
        equal[len(items) : len(items) + len(counts) - 1, :first] = counts[1:]
        equal[len(items) + len(counts) - 1 :, : first + choices] = links
        layers = [float(item.count) for item in items]
        return equal, np.concatenate([layers, value[1:], np.zeros(len(links))])

    def _links(self, kinds: int, formats: int) -> FloatArray:
        """Return the rows by which layers are where loads have them, by format and by kind."""
        places, items = len(self.problem.places), self.items
        shape = len(items), places, formats
        of_format = np.zeros((places, formats, *shape))
        of_kind = np.zeros((places, kinds, *shape))
        for number, item in enumerate(items):
            for place in range(places):
                of_kind[place, item.block, number, place] = 1.0
                main = self.table.parts.main[item.block]
                of_format[place, :, number, place] = main * np.eye(formats)
        loads = np.zeros((places * (formats + kinds), self.width + 6))
        start = 0
        for place, chosen in enumerate(self.columns):
            stop = start + len(chosen)
            first = place * formats
            loads[first : first + formats, start:stop] = -self.loads[place].layers[chosen].T
            first = places * formats + place * kinds
            loads[first : first + kinds, start:stop] = -self.loads[place].kinds[chosen].T
            start = stop
        choices = len(items) * places * formats
        links = np.concatenate([of_format.reshape(-1, choices), of_kind.reshape(-1, choices)])
        return np.concatenate([loads, links], axis=1)

    def _multipliers(self, upper: FloatArray, equal: FloatArray) -> CellMultipliers:
        items, places = len(self.items), len(self.problem.places)
        plain = super()._multipliers(upper, np.concatenate([[0.0], equal[items:]]))
        values_s = (-equal[items + 2 + places :]).tolist()
        formats = places * len(self.problem.formats)
        return CellMultipliers(
            plain.prefill,
            plain.decode,
            plain.path,
            plain.loss_price_s,
            plain.values_s,
            tuple(values_s[:formats]),
            tuple(values_s[formats:]),
        )
