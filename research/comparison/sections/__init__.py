"""The sections of a report: from results to blocks of text, tables and figures."""
