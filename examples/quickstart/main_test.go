package main

func Example() {
	main()
	// Output: Ada owes 120.00 for booking/789
}
