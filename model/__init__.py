"""LexiMind's network and its decoding: torch and the tokenizer, no HTTP, no config framework, no tracking.

Four packages, each of which knows those below it: `storage` (checkpoint folders), `inference` (what answers: a backend,
its cache, decoding), `network` (the modules that train), `kernels` (C++ on plain arrays). Configuration, tasks and
tokenizer lie below all.

Shape legend, used in every trailing comment of this package:

    B batch   S source   T target   D model width   H heads   K head width
    V vocabulary   R decoder rows   N beams   L layers   C documents in flight
"""
