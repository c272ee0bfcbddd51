"""Hooks: package managers, systemd and shells tell bnbenv that the driver changed.

``place`` says where things are, ``scripts`` and ``kinds`` what the files hold (pure), ``install`` puts them there and
takes them away, ``registry`` knows whose projects are meant, ``note`` remembers what the machine was like, ``work`` is
``hook run``, ``tell`` leaves a line for the next shell, ``status`` says how all of it stands.

Who does what: root only notes, and asks systemd to start a unit for each owner of a registered project; a project is
synced by its owner alone. Nothing of a user's project is read or run as root, unless the project is root's.
"""
