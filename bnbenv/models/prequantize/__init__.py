"""A checkpoint in bitsandbytes' own form: made beside where it will lie, shard by shard, and put there in one rename.

``order`` says what is wanted, ``inputs`` what it is made from, ``target`` where it may go, ``staging`` holds what is
done so far, ``run`` follows the process that quantizes (``standalone``), ``finish`` completes the folder, ``make``
is all of it in turn.
"""
