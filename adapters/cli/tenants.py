"""Who uses the cluster, and how much each may."""

from __future__ import annotations

import click

from .cluster import change, report, show
from .options import Place, as_json, talks_to_cluster


@click.group(
    invoke_without_command=True, epilog="Example: interlock tenants; interlock tenants limit research --at-once 20"
)
@talks_to_cluster
@as_json
@click.pass_context
def tenants(ctx: click.Context, place: Place, json_: bool) -> None:
    """List tenants with their use and limits, or limit one."""
    if ctx.invoked_subcommand is None:
        show(place, "tenants", json_)


@tenants.command("limit", epilog="Example: interlock tenants limit research --at-once 20 --rate 5/s --burst 10")
@click.argument("name")
@click.option("--at-once", metavar="N", help="Requests that may wait or run; off for any number, 0 to shut it out.")
@click.option("--rate", metavar="N/LENGTH", help="Requests in the long run, as in 5/s or 100/m; off for any.")
@click.option("--burst", metavar="N", help="Requests at once after a quiet time, under the rate.")
@click.option("--priority", metavar="N", help="The highest priority that its requests may have.")
@talks_to_cluster
@as_json
def limit(
    name: str, at_once: str | None, rate: str | None, burst: str | None, priority: str | None, place: Place, json_: bool
) -> None:
    """Give a tenant limits of its own; for what is left out the settings hold, and without any option for all."""
    from interlock.domain.commands import SetTenantLimits
    from interlock.domain.tenants import parse_limits

    from .client import part

    options = {"at_once": at_once, "rate": rate, "burst": burst, "priority": priority}
    given = {key: value for key, value in options.items() if value is not None}
    command = SetTenantLimits(tenant=name, limits=parse_limits(given))
    path = f"/api/tenants/{part(name)}/limits"
    message = f"Tenant {name} has limits of its own." if given else f"The settings hold for tenant {name}."
    report(json_, message, change(place, [(command, ("PUT", path, given))]))
