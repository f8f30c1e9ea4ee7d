"""The mesh is a numbering of the processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adts_api.topology import Topology, divisors, layout, nearest, topology
from adts_api.v1alpha1 import Spec
from support.manifests import changed

degree = st.integers(1, 5)
meshes = st.builds(Topology, degree, degree, degree, degree)


@given(meshes)
def test_coordinates_number_the_processes_row_by_row(mesh: Topology) -> None:
    expected = [
        (pp, replicate, shard, tp)
        for pp in range(mesh.pp)
        for replicate in range(mesh.dp_replicate)
        for shard in range(mesh.dp_shard)
        for tp in range(mesh.tp)
    ]
    assert [mesh.coordinates(rank) for rank in range(mesh.world_size)] == expected


@given(meshes)
def test_every_data_rank_has_one_process_of_each_stage_and_slice(mesh: Topology) -> None:
    members: dict[int, list[tuple[int, int]]] = {}
    for rank in range(mesh.world_size):
        pp, _, _, tp = mesh.coordinates(rank)
        members.setdefault(mesh.data_rank(rank), []).append((pp, tp))
    assert sorted(members) == list(range(mesh.dp))
    assert all(sorted(m) == [(pp, tp) for pp in range(mesh.pp) for tp in range(mesh.tp)] for m in members.values())


@given(replicas=degree, processes=degree, stage=st.integers(0, 3))
def test_without_model_parallelism_every_process_is_a_data_rank(replicas: int, processes: int, stage: int) -> None:
    spec = Spec.model_validate(
        {"workers": {"replicas": replicas, "processesPerWorker": processes}, "zero": {"stage": stage}}
    )
    mesh = topology(spec)
    assert (mesh.dp, mesh.world_size) == (replicas * processes, replicas * processes)
    assert mesh.dp_shard == (mesh.dp if stage else 1)


@given(n=st.integers(1, 2000))
def test_divisors_are_all_and_ascending(n: int) -> None:
    assert divisors(n) == [d for d in range(1, n + 1) if n % d == 0]


@given(n=st.integers(1, 500), value=st.integers(1, 500))
def test_the_nearest_divisor_is_one_and_none_is_closer(n: int, value: int) -> None:
    found = nearest(value, divisors(n))
    assert n % found == 0
    assert all(n % other for other in range(1, n + 1) if abs(other - value) < abs(found - value))


LAYOUTS = {
    "dp4, zero 0": {"replicas": 2, "processes": 2, "tensor": 1, "pipeline": 1, "stage": 0},
    "dp2 x tp2, zero 2": {"replicas": 1, "processes": 4, "tensor": 2, "pipeline": 1, "stage": 2},
    "dp8 x tp2 x pp2, zero 1": {"replicas": 4, "processes": 8, "tensor": 2, "pipeline": 2, "stage": 1},
}


@pytest.mark.parametrize(("words", "numbers"), LAYOUTS.items(), ids=LAYOUTS)
def test_the_layout_in_words(words: str, numbers: dict[str, int]) -> None:
    manifest = changed(
        f"workers={{replicas: {numbers['replicas']}, gpusPerWorker: {numbers['processes']}}}",
        f"parallelism={{tensor: {numbers['tensor']}, pipeline: {numbers['pipeline']}}}",
        f"zero.stage={numbers['stage']}",
    )
    assert layout(Spec.model_validate(manifest["spec"])) == words


def test_degrees_that_do_not_divide_have_no_mesh() -> None:
    with pytest.raises(ValueError, match="tensor x pipeline = 3 does not divide the 4 processes"):
        topology(Spec.model_validate({"workers": {"replicas": 4}, "parallelism": {"tensor": 3}}))
