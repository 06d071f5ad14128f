package main

func Example() {
	main()
	// Output: invoice.issued: {"total":120}
}
