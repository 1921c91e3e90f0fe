"""Attacks that see other clients' rows gather them only where columns must come together, and never otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attacks.alie import ALIE
from attacks.fang_krum import FangKrum
from attacks.fang_trimmed_mean import FangTrimmedMean
from attacks.gae import GAE
from attacks.gae_code import GAECode
from attacks.ipm import InnerProductManipulation
from attacks.min_max import MinMax
from attacks.noise import Noise
from attacks.sign_flip import SignFlip
from raysim.attack import View, Visibility
from raysim.matrix.updates import Updates
from tests.attacks.crafting import layout_of, round_of
from tests.simulated_nodes import SimulatedNodes, travelled

K, D, ATTACKERS = 24, 9000, [3, 10, 11, 20]
BESIDE_THE_ROWS = {
    "alie": ALIE(),
    "alie of its own": ALIE(statistics="own"),
    "ipm": InnerProductManipulation(),
    "sign_flip": SignFlip(mean="benign"),
    "noise": Noise(),
    "fang_trimmed_mean": FangTrimmedMean(knowledge="partial"),
    "gae": GAE(num_coordinates=20, epochs=1, ascent_steps=2),
    "gae_code": GAECode(num_overheard=None),
}
PAIRS_OR_ORDER = {"min_max": MinMax(), "fang_krum": FangKrum(), "fang_trimmed_mean": FangTrimmedMean()}


def crafted_on(nodes, attack):
    """(crafted rows, bytes of rows that travelled, bytes moved in all) on so many nodes."""
    rows = np.random.default_rng(0).normal(size=(K, D + 3)).astype(np.float32)
    _, context = round_of(rows, ATTACKERS, layout=layout_of(D, buffers=3))
    backend = SimulatedNodes(nodes)
    updates = Updates.from_array(rows, backend, layout=context.layout, bounds=(0, 4096, D), rows_per_block=4)
    backend.spread(updates)
    own = np.isin(np.arange(K), ATTACKERS)
    sees_all = attack.visibility is Visibility.OMNISCIENT
    view = View(updates.select(own), updates.select(~own) if sees_all else None, K)
    context = replace(context, backend=backend, published=backend.put(context.global_vector))
    crafted, _ = attack.craft(attack.init(context), view, context)
    return crafted.to_array(buffers=True), travelled(updates), backend.moved.total()


@pytest.mark.parametrize("name", BESIDE_THE_ROWS)
def test_statistics_and_rows_are_made_beside_the_rows(name):
    alone, _, _ = crafted_on(1, BESIDE_THE_ROWS[name])
    for nodes in (2, 3):
        rows, brought, moved = crafted_on(nodes, BESIDE_THE_ROWS[name])
        assert rows.tobytes() == alone.tobytes()
        assert brought == 0, "no row leaves its node"
        assert moved < 0.35 * 4 * K * D * (nodes - 1), "a few vectors of d"


@pytest.mark.parametrize("name", PAIRS_OR_ORDER)
def test_pairs_and_order_statistics_bring_columns_together(name):
    alone, _, _ = crafted_on(1, PAIRS_OR_ORDER[name])
    rows, brought, _ = crafted_on(2, PAIRS_OR_ORDER[name])
    assert rows.tobytes() == alone.tobytes()
    assert 0 < brought <= 4 * K * (D + 3)
