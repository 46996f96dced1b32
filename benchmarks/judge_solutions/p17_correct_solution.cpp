// Codeforces 12B: the least digit that is not 0 first, the others in order.
#include <bits/stdc++.h>

int main() {
    std::string number, answer;
    std::cin >> number >> answer;
    std::sort(number.begin(), number.end());
    auto first = std::find_if(number.begin(), number.end(), [](char digit) { return digit != '0'; });
    if (first != number.end()) std::rotate(number.begin(), first, first + 1);
    std::cout << (number == answer ? "OK" : "WRONG_ANSWER") << "\n";
}
