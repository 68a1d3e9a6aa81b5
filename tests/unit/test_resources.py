"""Places of bundled files."""

from llmpq_sim.io.resources import bundled_dir, bundled_names, is_path, unknown_name


def test_bundled_folders_exist() -> None:
    assert bundled_dir("cluster_profiles").name == "cluster_profiles"
    assert (bundled_dir("cluster_profiles") / "devices.yaml").is_file()


def test_names_are_in_the_order_people_count() -> None:
    names = bundled_names("cluster_profiles", "clusters", ".yaml")
    papers = [name for name in names if name.startswith("paper-")]
    assert papers == [f"paper-{number}" for number in range(1, 12)]


def test_a_path_is_told_from_a_name() -> None:
    assert is_path("lab.yaml", (".yaml",))
    assert is_path("./lab", (".yaml",))
    assert not is_path("paper-3", (".yaml",))


def test_an_unknown_name_gets_its_likely_ones() -> None:
    error = unknown_name("model", "a model", "Org/OPT-31B", ("opt-30b", "bloom-3b"))
    assert str(error) == "model: expected a model, got 'Org/OPT-31B'; did you mean opt-30b?"


def test_a_name_like_none_gets_them_all() -> None:
    error = unknown_name("model", "a model", "x", ("opt-30b", "bloom-3b"))
    assert str(error) == "model: expected a model, got 'x'; known are: opt-30b, bloom-3b"
