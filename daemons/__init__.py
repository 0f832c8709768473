"""The daemons: flags to configuration, cores and adapters chosen, runtime started."""
