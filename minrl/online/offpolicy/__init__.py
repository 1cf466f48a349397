"""Parts of recurrent SAC: replay of whole rows, networks, targets and losses."""
