module sluice/filter

go 1.24
