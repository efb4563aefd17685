# SPDX-License-Identifier: Apache-2.0
"""A page of HTML about a process: one file that needs no network.

`figures` collects what is shown, `shapes` makes series, tiles and colours of it, `document` writes
the page. The plots over time are bokeh's (`plots`), or plain SVG where it is not installed (`svg`).
"""
