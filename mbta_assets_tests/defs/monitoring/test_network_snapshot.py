"""The order of stops in the network snapshot."""

from mbta_assets.defs.monitoring.network_snapshot import merge_stop_patterns


def test_the_stops_of_a_branch_are_adjacent_in_either_direction() -> None:
    trunk, ashmont, braintree = ["Alewife", "JFK"], ["Savin Hill", "Ashmont"], ["North Quincy", "Braintree"]
    outbound = merge_stop_patterns([trunk + ashmont, trunk + braintree])
    assert outbound == [*trunk, *braintree, *ashmont]
    inbound = merge_stop_patterns([(trunk + ashmont)[::-1], (trunk + braintree)[::-1]])
    assert inbound == [*ashmont[::-1], *braintree[::-1], *trunk[::-1]]
    assert merge_stop_patterns([["a", "c"], ["a", "b", "c"], ["z"]]) == ["a", "b", "c", "z"]
