import pytest

from shoal.errors import ConfigError
from shoal.planner.files.cluster_file import parse_cluster_file
from shoal.planner.speeds.speeds import LinkSpeed

CLUSTER = """
machines:
  - {name: here, cpus: [0], cpu_quota: 0.5}
  - name: server
    count: 8
    cores: 32
    memory: 256G
    rates: {memory_bytes_per_s: 1.5e11, fp32_flops_per_s: 1.5e12}
link: {latency_s: 1e-4, bytes_per_s: 1e9}
links:
  - {between: [here, server], latency_s: 1e-3, bytes_per_s: 2e7, back_bytes_per_s: 1e6}
"""


def test_machines_and_links_of_a_file():
    cluster = parse_cluster_file(CLUSTER, "cluster.yaml")
    here, server = cluster.machines
    assert (here.is_local, here.cpus, here.cpu_quota, here.memory_bytes) == (True, (0,), 0.5, None)
    assert (server.is_local, server.count, server.memory_bytes) == (False, 8, 256 << 30)
    assert server.rates is not None
    assert server.rates.memory_bytes_per_s == 1.5e11
    there, back = LinkSpeed(latency_s=1e-3, bytes_per_s=2e7), LinkSpeed(latency_s=1e-3, bytes_per_s=1e6)
    among = LinkSpeed(latency_s=1e-4, bytes_per_s=1e9)
    assert cluster.links_between() == ((among, there), (back, among))


def test_a_link_said_for_one_direction_holds_for_both():
    text = CLUSTER.replace(", back_bytes_per_s: 1e6", "")
    links = parse_cluster_file(text, "cluster.yaml").links_between()
    assert links[0][1] == links[1][0]


def test_each_direction_may_have_an_entry_of_its_own():
    text = CLUSTER.replace(", back_bytes_per_s: 1e6", "")
    text += "  - {between: [server, here], latency_s: 2e-3, bytes_per_s: 5e6}\n"
    links = parse_cluster_file(text, "cluster.yaml").links_between()
    assert links[1][0] == LinkSpeed(latency_s=2e-3, bytes_per_s=5e6)
    assert links[0][1] == LinkSpeed(latency_s=1e-3, bytes_per_s=2e7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "c.yaml: Expected `object`, got `null`"),
        ("a: [", "c.yaml is not YAML"),
        ("machines: []", "c.yaml: there are no machines"),
        ("machines: [{name: a, cpu: [0]}]", "unknown field `cpu` - at `$.machines[0]` (did you mean cpus?)"),
        ("machines: [{name: a, cpus: [0]}, {name: b, cpus: [1, 0]}]", "machines a and b both take CPU 0"),
        ("machines: [{name: a, cpus: [0]}, {name: a, cpus: [1]}]", "two machines are named 'a'"),
        ("machines: [{name: a, cpus: []}]", "machine a: cpus: needs different CPU ids"),
        ("machines: [{name: a, cpus: [0], cpu_quota: 1.5}]", "cpu_quota is 1.5, but it is a share"),
        ("machines: [{name: a, cpus: [0], count: 2}]", "machine a: a machine at hand is measured"),
        ("machines: [{name: a, cores: 2}]", "machine a: give memory, rates, or cpus"),
        (CLUSTER.replace("1.5e12", "-1"), "machine server: fp32_flops_per_s is -1, but it must be at least 1"),
        (
            CLUSTER.replace("1.5e11", "1e-300"),
            "machine server: memory_bytes_per_s is 1e-300, but it must be at least 1",
        ),
        (CLUSTER.replace("bytes_per_s: 1e9", "bytes_per_s: 1e-300"), "link: bytes_per_s is 1e-300, but it must be"),
        (CLUSTER.replace("1.5e12", ".nan"), "machine server: fp32_flops_per_s is nan"),
        (CLUSTER.replace("256G", "lots"), "machine server: memory: 'lots' is not a size"),
        (CLUSTER.replace("bytes_per_s: 1e9", "bytes_per_s: 0"), "link: bytes_per_s is 0"),
        (CLUSTER.replace("latency_s: 1e-3", "latency_s: -1"), "link between here and server: latency_s is -1"),
        (CLUSTER.replace("[here, server]", "[here, sever]"), "no machine sever (did you mean server?)"),
        (CLUSTER.replace("link: {latency_s: 1e-4, bytes_per_s: 1e9}", ""), "nothing says how server reaches server"),
        ("machines: [{name: a, cpus: [0]}, {name: b, cpus: [1]}]", "nothing says how a reaches b"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(text: str, says: str):
    with pytest.raises(ConfigError) as error:
        parse_cluster_file(text, "c.yaml")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_machines_at_hand_need_no_link_to_themselves():
    parse_cluster_file("machines: [{name: a, cpus: [0]}]", "c.yaml")
