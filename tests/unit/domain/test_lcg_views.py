from __future__ import annotations

import pytest

from gha_apptainer.domain.errors import GhaError, InputError, Refused
from gha_apptainer.domain.lcg_views import repository_of, view

PLATFORM = "x86_64-el9-gcc13-opt"
VIEWS = "/cvmfs/sft.cern.ch/lcg/views/"


@pytest.mark.parametrize(
    "inputs, path, image",
    [
        ({"release_platform": "LCG_106/" + PLATFORM}, "/cvmfs/sft.cern.ch/lcg/views/LCG_106/" + PLATFORM, "el9"),
        ({"release": "LCG_99", "platform": "x86_64-centos7-gcc10-opt"}, VIEWS + "LCG_99/x86_64-centos7-gcc10-opt", "centos7"),
        ({"release_platform": "dev4/" + PLATFORM}, "/cvmfs/sft-nightlies.cern.ch/lcg/views/dev4/latest/" + PLATFORM, "el9"),
        ({"release_platform": "dev3cuda/Mon/" + PLATFORM}, "/cvmfs/sft-nightlies.cern.ch/lcg/views/dev3cuda/Mon/" + PLATFORM, "el9"),
        ({"view_path": "/cvmfs/sw.hsf.org/key4hep"}, "/cvmfs/sw.hsf.org/key4hep", ""),
        ({"view_path": "/cvmfs/x.y/v/" + PLATFORM + "/"}, "/cvmfs/x.y/v/" + PLATFORM, "el9"),
        ({"view_path": "/cvmfs/sw.hsf.org/key4hep", "platform": "x86_64-ubuntu22-gcc11-opt"}, "/cvmfs/sw.hsf.org/key4hep", "ubuntu22"),
        ({"release_platform": "LCG_106/x86_64_v3-el9-gcc13-opt"}, VIEWS + "LCG_106/x86_64_v3-el9-gcc13-opt", "el9"),
        ({"release_platform": "LCG_106/x86_64+avx2-el9-gcc13-opt"}, VIEWS + "LCG_106/x86_64+avx2-el9-gcc13-opt", "el9"),
    ],
)
def test_views(inputs: dict[str, str], path: str, image: str) -> None:
    found = view(**inputs, machine="x86_64")
    assert (found.path, found.setup, found.image) == (path, path + "/setup.sh", "ghcr.io/aidasoft/%s:latest" % image if image else "")


def test_setup_script_is_relative_to_the_view() -> None:
    assert view(view_path="/v", setup_script="env.sh", machine="x86_64").setup == "/v/env.sh"
    assert view(view_path="/v", setup_script="/else/env.sh", machine="x86_64").setup == "/else/env.sh"


@pytest.mark.parametrize(
    "inputs, named",
    [
        ({"release_platform": "LCG_106/" + PLATFORM, "platform": PLATFORM}, "release-platform and platform"),
        ({"release_platform": "LCG_106/" + PLATFORM, "release": "LCG_106"}, "release-platform and release"),
        ({"release": "LCG_106"}, "input platform is missing"),
        ({"platform": PLATFORM}, "input release is missing"),
        ({"release_platform": "LCG_106"}, "is no RELEASE/PLATFORM"),
        ({"release_platform": "LCG_106/x86_64-el9"}, "is no platform"),
        ({"release_platform": "../../etc/" + PLATFORM}, "is no release"),
        ({"view_path": "/v", "release_platform": "LCG_106/" + PLATFORM}, "view-path cannot be given together with release-platform"),
        ({"view_path": "/v", "release": "LCG_106"}, "view-path cannot be given together with release"),
        ({"view_path": "v"}, "no absolute path"),
    ],
)
@pytest.mark.case("action-8")
def test_errors(inputs: dict[str, str], named: str) -> None:
    with pytest.raises(InputError) as caught:
        view(**inputs, machine="x86_64")
    assert named in caught.value.what.replace("inputs ", "")
    assert caught.value.remedy


@pytest.mark.case("action-8")
def test_a_platform_for_another_machine_is_refused() -> None:
    with pytest.raises(Refused, match="this machine is aarch64"):
        view(release_platform="LCG_106/" + PLATFORM, machine="aarch64")
    assert view(release_platform="LCG_106/arm64-el9-gcc13-opt", machine="aarch64").image.endswith("el9:latest")


def test_repository() -> None:
    assert (repository_of("/cvmfs/a.b/c"), repository_of("/opt/x"), repository_of("/cvmfs")) == ("a.b", "", "")


def test_every_error_has_a_remedy() -> None:
    for inputs in ({"release": "x/../y", "platform": PLATFORM}, {"release_platform": "/" + PLATFORM}):
        with pytest.raises(GhaError) as caught:
            view(**inputs, machine="x86_64")
        assert caught.value.remedy
