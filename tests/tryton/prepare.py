"""Makes an empty database a Tryton with a company, two accounts for the root, and Olga and Nils, who work in it by hand.

Run by tests.tryton.server in a process of its own: trytond keeps its state in module globals.
"""

import os
import sys
from argparse import Namespace
from datetime import date
from decimal import Decimal
from typing import Any

from trytond import config

DATABASE = "tryton"
USERS = {
    "admin": "admin-password-of-tests",
    "root-read": "read-password-of-tests",
    "root-write": "write-password-of-tests",
    "olga": "olga-password-of-tests",
    "nils": "nils-password-of-tests",
}
READ = ("sale.opportunity", "party.party", "company.company", "company.employee", "currency.currency")


def main(configuration: str, password_file: str) -> None:
    config.update_etc([configuration])
    os.environ["TRYTONPASSFILE"] = password_file
    install()
    people()


def install() -> None:
    """What `trytond-admin -u sale_opportunity --activate-dependencies` does."""
    from trytond import admin  # here, and not above: trytond picks its database driver while it is imported
    from trytond.pool import Pool

    Pool.start()
    admin.run(
        Namespace(
            activatedeps=True,
            active=True,
            administrator=None,
            database_names=[DATABASE],
            email="admin@harbor.example",
            export_translations=False,
            hostname=None,
            indexes=None,
            languages=[],
            login="admin",
            password=False,
            reset_password=False,
            test_email=None,
            update=["sale_opportunity"],
            update_modules_list=False,
            validate=None,
            validate_percentage=None,
        )
    )


def people() -> None:
    from trytond.pool import Pool
    from trytond.transaction import Transaction

    with Transaction().start(DATABASE, 1) as transaction:
        pool = Pool()

        def make(model: str, /, **values: Any) -> Any:
            [made] = pool.get(model).create([values])
            return made

        def found(module: str, name: str) -> int:
            return int(pool.get("ir.model.data").get_id(module, name))

        euro = make("currency.currency", name="Euro", symbol="€", code="EUR", rounding=Decimal("0.01"), digits=2)
        make("currency.currency.rate", currency=euro.id, date=date(2000, 1, 1), rate=Decimal(1))
        harbor = make("party.party", name="Harbor Analytics")
        company = make("company.company", party=harbor.id, currency=euro.id)
        with transaction.set_context(company=company.id):
            for name in ("Olga Petrova", "Nils Berg"):
                make("company.employee", party=make("party.party", name=name).id, company=company.id)
            for name in ("Acme Freight", "Borealis Shipping"):
                make("party.party", name=name)
            models = [model.name for model in pool.get("ir.model").search([])]
            user(make, "root-read", company.id, access(make, models, "Mission root: read", write=False))
            user(make, "root-write", company.id, access(make, models, "Mission root: write", write=True))
            for login in ("olga", "nils"):
                user(make, login, company.id, found("sale_opportunity", "group_opportunity"))
        transaction.commit()


def access(make: Any, models: list[str], name: str, write: bool) -> int:
    """A group that may read leads, opportunities and whom they name, and change existing opportunities when `write`.

    Tryton leaves a model that has no access row for any of a user's groups open to reading and writing: so there is a row
    for every model.
    """
    group = make("res.group", name=name)
    for model in models:
        rights = {"perm_create": False, "perm_delete": False, "perm_read": model in READ, "perm_write": False}
        if write and model == "sale.opportunity":
            rights["perm_write"] = True
        make("ir.model.access", model=model, group=group.id, **rights)
    return int(group.id)


def user(make: Any, login: str, company: int, group: int) -> None:
    make(
        "res.user",
        name=login,
        login=login,
        password=USERS[login],
        companies=[("add", [company])],
        company=company,
        groups=[("add", [group])],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
