module sluice/calls

go 1.24

require sluice/filter v0.0.0

replace sluice/filter => ../../../sdk/go
