// Codeforces 1198A: keep the window of distinct values that fits and covers most elements.
#include <bits/stdc++.h>

int main() {
    long long n, size_bytes;
    std::cin >> n >> size_bytes;
    std::map<long long, int> counts;
    for (int i = 0; i < n; i++) {
        long long value;
        std::cin >> value;
        counts[value]++;
    }
    long long width = 1LL << std::min(8 * size_bytes / n, 20LL), distinct = counts.size();
    std::vector<long long> sums = {0};
    for (auto [value, count] : counts) sums.push_back(sums.back() + count);
    long long best = 0;
    if (width >= distinct) best = n;
    for (int start = 0; start + width <= distinct; start++) best = std::max(best, sums[start + width] - sums[start]);
    std::cout << n - best << "\n";
}
